"""The InstantID engine: SDXL conditioned by IdentityNet and the face adapter. Imports torch."""
