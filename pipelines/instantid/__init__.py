"""The InstantID engine: SDXL conditioned by IdentityNet and the face adapter. Imports torch."""

import os

# Before any of the libraries is imported: nothing of theirs may look for weights or send figures anywhere.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
    os.environ[_name] = "1"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # insightface's dependency asks for updates on import
