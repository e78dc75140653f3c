import signal

from hypothesis import settings

# Under nohup this signal is ignored, in the tests' processes too; some of them send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine must not fail a test whose subject is not speed.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
