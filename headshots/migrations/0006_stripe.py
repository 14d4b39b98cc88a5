"""Attempts at paying, refunds that are sent, disputes.

What was paid before was paid to the test provider: its refunds are with their customers as they stand.
"""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F


def mark_refunds_as_sent(apps, schema_editor):
    apps.get_model("headshots", "Refund").objects.update(
        state="sent", sent_at=F("created_at"), not_before=F("created_at")
    )


class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0005_fair_queue'),
    ]

    operations = [
        migrations.AddField('payment', 'charge_reference', models.CharField(blank=True, db_index=True, default='', max_length=255)),
        migrations.AddField('payment', 'attempt', models.PositiveSmallIntegerField(default=0)),
        migrations.AddField('payment', 'checkout_id', models.CharField(blank=True, default='', max_length=255)),
        migrations.AddField('payment', 'checkout_state', models.CharField(choices=[('open', 'Open'), ('processing', 'Processing'), ('failed', 'Failed'), ('expired', 'Expired')], default='open', max_length=10)),
        migrations.AddField('payment', 'checkout_expires_at', models.DateTimeField(null=True)),
        migrations.AddField('payment', 'look_at', models.DateTimeField(null=True)),
        migrations.AddConstraint('payment', models.CheckConstraint(condition=models.Q(('checkout_state__in', ('open', 'processing', 'failed', 'expired'))), name='checkout_state_is_known')),
        migrations.AlterField('refund', 'reason', models.CharField(choices=[('not delivered', 'Not Delivered'), ('staff', 'Staff'), ('outside', 'Outside')], max_length=40)),
        migrations.AddField('refund', 'pictures', models.JSONField(default=list)),
        migrations.AddField('refund', 'state', models.CharField(choices=[('due', 'Due'), ('sent', 'Sent'), ('failed', 'Failed')], default='due', max_length=10)),
        migrations.AddField('refund', 'attempts', models.PositiveSmallIntegerField(default=0)),
        migrations.AddField('refund', 'not_before', models.DateTimeField(null=True)),
        migrations.AddField('refund', 'provider_id', models.CharField(blank=True, default='', max_length=255)),
        migrations.AddField('refund', 'sent_at', models.DateTimeField(null=True)),
        migrations.AddField('refund', 'error_code', models.CharField(blank=True, default='', max_length=60)),
        migrations.RunPython(mark_refunds_as_sent, migrations.RunPython.noop),
        migrations.AlterField('refund', 'not_before', models.DateTimeField()),
        migrations.AddIndex('refund', models.Index(fields=['state', 'not_before'], name='headshots_r_state_960108_idx')),
        migrations.AddConstraint('refund', models.CheckConstraint(condition=models.Q(('state', 'due'), models.Q(('sent_at__isnull', False), ('state', 'sent')), models.Q(('state', 'failed'), models.Q(('error_code', ''), _negated=True)), _connector='OR'), name='refund_state_is_explained')),
        migrations.CreateModel(
            name='Dispute',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('provider_id', models.CharField(max_length=255, unique=True)),
                ('state', models.CharField(choices=[('open', 'Open'), ('won', 'Won'), ('lost', 'Lost')], max_length=10)),
                ('amount_cents', models.PositiveIntegerField()),
                ('opened_at', models.DateTimeField()),
                ('closed_at', models.DateTimeField(null=True)),
                ('payment', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disputes', to='headshots.payment')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('state__in', ('open', 'won', 'lost'))), name='dispute_state_is_known')],
            },
        ),
    ]
