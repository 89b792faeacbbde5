from django.db import migrations


def check(apps, schema_editor):
    """Look at the rows that were there before the constraint, while others go on writing."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE agent_sessions_event VALIDATE CONSTRAINT event_kind_known")


class Migration(migrations.Migration):
    dependencies = [("agent_sessions", "0005_denied")]

    operations = [migrations.RunPython(check, migrations.RunPython.noop)]
