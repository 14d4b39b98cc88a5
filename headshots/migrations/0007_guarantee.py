"""Spare shots: what the quality gate said of a picture, and the states of what is compared and not needed."""

from django.db import migrations, models

STATES = [('pending', 'Pending'), ('leased', 'Leased'), ('kept', 'Kept'), ('done', 'Done'), ('surplus', 'Surplus'), ('failed', 'Failed')]


class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0006_stripe'),
    ]

    operations = [
        migrations.AddField('shot', 'likeness', models.CharField(blank=True, default='', max_length=20)),
        migrations.AddField('shot', 'rank', models.PositiveSmallIntegerField(default=0)),
        migrations.RemoveConstraint('shot', 'shot_state_is_known'),
        migrations.AlterField('shot', 'state', models.CharField(choices=STATES, default='pending', max_length=10)),
        migrations.AddConstraint('shot', models.CheckConstraint(condition=models.Q(('state__in', ['pending', 'leased', 'kept', 'done', 'surplus', 'failed'])), name='shot_state_is_known')),
        migrations.AddConstraint('shot', models.CheckConstraint(condition=models.Q(('likeness__in', ('', 'strong likeness', 'good likeness', 'fair likeness'))), name='likeness_is_a_word')),
        migrations.AddConstraint('shot', models.CheckConstraint(condition=models.Q(('rank__lte', 6)), name='rank_is_coarse')),
    ]
