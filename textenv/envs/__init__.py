"""The environments of text: `TextGen-v0`, its vector form, and `TextGenTokens-v0`."""
