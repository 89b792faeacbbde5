from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('agent_sessions', '0003_list_indexes'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='event',
            name='event_number_unique',
        ),
        migrations.AddConstraint(
            model_name='event',
            constraint=models.UniqueConstraint(fields=('run', 'number'), name='event_number_unique'),
        ),
    ]
