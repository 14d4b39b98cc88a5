"""The audit log becomes a hash chain: each entry gets its place and the head after it.

The entries that exist are chained in the order they were written, with their times cut to the second, as new
ones are. The hashing is a copy of its own: a migration must not change when the code does.
"""

import hashlib
import json

from django.db import migrations, models


def chain(apps, schema_editor):
    head = bytes(32)
    entries = apps.get_model("headshots", "AuditEntry").objects
    for seq, entry in enumerate(entries.order_by("id").iterator(chunk_size=500), start=1):
        at = entry.at.replace(microsecond=0)
        content = {
            "at": int(at.timestamp()),
            "by": entry.actor,
            "detail": {name: _whole(value) for name, value in entry.detail.items()},
            "ev": entry.event,
            "ref": entry.reference,
            "seq": seq,
        }
        written = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        head = hashlib.sha256(b"headshots/v1 audit\0" + head + hashlib.sha256(written).digest()).digest()
        entries.filter(pk=entry.pk).update(at=at, seq=seq, head=head.hex())


def _whole(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Migration(migrations.Migration):

    dependencies = [
        ("headshots", "0002_style_numbers"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="seq",
            field=models.PositiveBigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="head",
            field=models.CharField(max_length=64, null=True),
        ),
        migrations.RunPython(chain, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="auditentry",
            name="seq",
            field=models.PositiveBigIntegerField(unique=True),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="head",
            field=models.CharField(max_length=64),
        ),
    ]
