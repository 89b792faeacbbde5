"""Profiles named the sources of their secrets; from here on they name references, which operators grant.

Each source becomes one reference, granted to the profiles that named it, and for every group, as it was until now.
"""

from django.db import migrations


def refer(apps, schema_editor):
    """file → kind:place becomes file → ref:NAME."""
    profiles = apps.get_model("groups", "AgentProfile").objects.using(schema_editor.connection.alias)
    references = apps.get_model("groups", "SecretReference").objects.using(schema_editor.connection.alias)
    for profile in profiles.exclude(secrets={}):
        named = {}
        for file, source in profile.secrets.items():
            kind, _, place = source.partition(":")
            if kind == "ref":
                named[file] = source
                continue
            reference = references.filter(kind=kind, place=place).first()
            if reference is None:
                name = free_name(references, file)
                words = "Made from what profiles said before secrets had names."
                reference = references.create(name=name, kind=kind, place=place, every_group=True, description=words)
            reference.profiles.add(profile)
            named[file] = f"ref:{reference.name}"
        profile.secrets = named
        profile.save(update_fields=["secrets"])


def free_name(references, file):
    """The file's name, or the next one like it that no reference has."""
    name, number = file[:90], 1
    while references.filter(name=name).exists():
        number += 1
        name = f"{file[:90]}-{number}"
    return name


def spell_out(apps, schema_editor):
    """file → ref:NAME becomes file → kind:place. Grants to groups are lost: the old form had none."""
    profiles = apps.get_model("groups", "AgentProfile").objects.using(schema_editor.connection.alias)
    references = apps.get_model("groups", "SecretReference").objects.using(schema_editor.connection.alias)
    sources = {f"ref:{row.name}": f"{row.kind}:{row.place}" for row in references.all()}
    for profile in profiles.exclude(secrets={}):
        profile.secrets = {file: sources.get(source, source) for file, source in profile.secrets.items()}
        profile.save(update_fields=["secrets"])


class Migration(migrations.Migration):
    dependencies = [("groups", "0005_mounts_secrets")]
    operations = [migrations.RunPython(refer, spell_out)]
