from hypothesis import settings

# A busy machine must not fail a test whose subject is not speed.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
