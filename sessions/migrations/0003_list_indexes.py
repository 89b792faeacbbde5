from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("agent_sessions", "0002_retries_records")]

    operations = [
        migrations.AddIndex(
            model_name="agentsession",
            index=models.Index(fields=["state", "-updated_at"], name="session_state_recent"),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(
                condition=models.Q(("kind", "delivered")), fields=["session", "seq"], name="event_delivered"
            ),
        ),
    ]
