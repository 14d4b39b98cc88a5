"""A picture that is made again: the shot says which delivered one it is to take the place of."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0009_free_orders'),
    ]

    operations = [
        migrations.AddField(
            model_name='shot',
            name='replaces',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='redos', to='headshots.shot'),
        ),
        migrations.AddConstraint(
            model_name='shot',
            constraint=models.UniqueConstraint(condition=Q(('state__in', ('pending', 'leased', 'kept'))), fields=('replaces',), name='one_open_redo_per_picture'),
        ),
    ]
