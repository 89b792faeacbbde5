"""What other apps may act on. `sessions` knows none of them."""

from django.dispatch import Signal

# Once a second, by the watcher that leads. Receivers do no more than queue tasks.
swept = Signal()

# In the transaction that ends a run: `session_id`, `run_id`.
run_ended = Signal()

# In the transaction that stores an agent's request for a scheduled task: `session_id`, `run_id`, `text` as it wrote it.
task_asked = Signal()
