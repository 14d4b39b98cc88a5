"""The pages: parse, call one service, present. All works without scripts; they only add comfort."""
