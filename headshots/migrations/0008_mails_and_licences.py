"""Mails with their sealed addresses, and the licence of each order as it was granted."""

import uuid

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q

PROTECT = django.db.models.deletion.PROTECT


class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0007_guarantee'),
    ]

    operations = [
        migrations.CreateModel(
            name='LicenceGrant',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('version', models.CharField(max_length=20)),
                ('text', models.TextField()),
                ('sha256', models.CharField(max_length=64)),
                ('granted_at', models.DateTimeField()),
                ('order', models.OneToOneField(on_delete=PROTECT, related_name='licence', to='headshots.order')),
            ],
        ),
        migrations.CreateModel(
            name='MailAddress',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('sealed', models.BinaryField(max_length=700)),
                ('order', models.OneToOneField(on_delete=PROTECT, related_name='mail_address', to='headshots.order')),
            ],
        ),
        migrations.CreateModel(
            name='Mail',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('placed', 'Placed'), ('ready', 'Ready'), ('failed', 'Failed'), ('refunded', 'Refunded'), ('refused', 'Refused'), ('deleted', 'Deleted')], max_length=10)),
                ('state', models.CharField(choices=[('due', 'Due'), ('sent', 'Sent'), ('given up', 'Given Up')], default='due', max_length=10)),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('not_before', models.DateTimeField()),
                ('created_at', models.DateTimeField()),
                ('sent_at', models.DateTimeField(null=True)),
                ('order', models.ForeignKey(on_delete=PROTECT, related_name='mails', to='headshots.order')),
            ],
            options={
                'indexes': [models.Index(fields=['state', 'not_before'], name='headshots_m_state_f760db_idx')],
                'constraints': [
                    models.UniqueConstraint(fields=('order', 'kind'), name='one_mail_per_order_and_kind'),
                    models.CheckConstraint(condition=Q(Q(('sent_at__isnull', False), ('state', 'sent')), Q(('sent_at__isnull', True), ('state__in', ('due', 'given up'))), _connector='OR'), name='mail_state_is_explained'),
                ],
            },
        ),
    ]
