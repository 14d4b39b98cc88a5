"""The encrypted store: sealed objects, keys that die on time, blobs, receipts, tokens. Knows no models."""
