"""Mails: what each says, sent once, tried again, given up; and the address, sealed."""
