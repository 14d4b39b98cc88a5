"""Free orders cost work, and are counted by network under a salt that is thrown away each day."""

import uuid

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('headshots', '0008_mails_and_licences'),
    ]

    operations = [
        migrations.CreateModel(
            name='NetworkCount',
            fields=[
                ('digest', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('count', models.PositiveIntegerField(default=0)),
                ('ends_at', models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='NetworkSalt',
            fields=[
                ('day', models.DateField(primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4)),
                ('epoch', models.PositiveIntegerField()),
                ('wrapped', models.BinaryField(max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name='SpentChallenge',
            fields=[
                ('signature', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('expires_at', models.DateTimeField(db_index=True)),
            ],
        ),
    ]
