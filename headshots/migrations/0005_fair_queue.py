"""Places in the queue by virtual finish time, and what switches a failing style off.

Shots that wait when this runs get their places as if their orders had all begun together. The numbers are
copies of their own: a migration must not change when the code does.
"""

from django.db import migrations, models

WEIGHTS = {"free": 2, "premium": 1}


def place_waiting_shots(apps, schema_editor):
    shots = apps.get_model("headshots", "Shot").objects
    waiting = shots.filter(state__in=("pending", "leased")).select_related("order", "style_version")
    offset_of = {}
    for shot in waiting.order_by("order_id", "index").iterator(chunk_size=500):
        order = shot.order
        work = 2 * shot.style_version.num_inference_steps + 1 + 4 * (order.long_edge > 1152)
        offset = offset_of.get(order.pk, 0) + work * 1000 // WEIGHTS[order.tier]
        offset_of[order.pk] = offset
        has_begun = order.state in ("queued", "rendering")
        shots.filter(pk=shot.pk).update(
            work=work, virtual_offset=offset, virtual_finish=offset if has_begun else None
        )



class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0004_purge_machine'),
    ]

    operations = [
        migrations.CreateModel(
            name='QueueMark',
            fields=[
                ('name', models.CharField(max_length=20, primary_key=True, serialize=False)),
                ('virtual_time', models.PositiveBigIntegerField(default=0)),
            ],
        ),
        migrations.AddField(
            model_name='shot',
            name='virtual_finish',
            field=models.PositiveBigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='shot',
            name='virtual_offset',
            field=models.PositiveBigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='shot',
            name='work',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='style',
            name='published_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='style',
            name='switched_off_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.RunPython(place_waiting_shots, migrations.RunPython.noop),
        migrations.RemoveIndex(
            model_name='shot',
            name='headshots_s_state_45885b_idx',
        ),
        migrations.AddIndex(
            model_name='shot',
            index=models.Index(fields=['state', 'virtual_finish'], name='headshots_s_state_923495_idx'),
        ),
        migrations.AddIndex(
            model_name='shot',
            index=models.Index(fields=['state', 'finished_at'], name='headshots_s_state_4672e7_idx'),
        ),
    ]
