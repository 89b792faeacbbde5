from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class AddUnchecked(migrations.AddConstraint):
    """A constraint for new rows. Looking at those that are there would lock a large table; the next migration does.

    https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-NOTES
    """

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "postgresql":
            unchecked = AddConstraintNotValid(self.model_name, self.constraint)
            unchecked.database_forwards(app_label, schema_editor, from_state, to_state)
        else:
            super().database_forwards(app_label, schema_editor, from_state, to_state)


def tell_otherwise(apps, schema_editor):
    """Backwards: the words stay, as what Berth itself says."""
    apps.get_model("agent_sessions", "Event").objects.filter(kind="denied").update(kind="state")


class Migration(migrations.Migration):

    dependencies = [
        ('agent_sessions', '0004_event_number_of_all'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='event',
            name='event_kind_known',
        ),
        migrations.AlterField(
            model_name='event',
            name='kind',
            field=models.CharField(choices=[('message', 'Message'), ('state', 'State'), ('delivered', 'Delivered'), ('turn', 'Turn'), ('text', 'Text'), ('result', 'Result'), ('tool', 'Tool'), ('usage', 'Usage'), ('session', 'Session'), ('error', 'Error'), ('stdout', 'Output'), ('stderr', 'Error output'), ('task', 'Task'), ('gap', 'Gap'), ('exit', 'Exit'), ('denied', 'Denied')], max_length=10),
        ),
        AddUnchecked(
            model_name='event',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['message', 'state', 'delivered', 'turn', 'text', 'result', 'tool', 'usage', 'session', 'error', 'stdout', 'stderr', 'task', 'gap', 'exit', 'denied'])), name='event_kind_known'),
        ),
        migrations.RunPython(migrations.RunPython.noop, tell_otherwise),
    ]
