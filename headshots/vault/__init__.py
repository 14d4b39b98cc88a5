"""The encrypted store: sealed objects, the keys that die, blobs, receipts and tokens; knows no models and no Django."""
