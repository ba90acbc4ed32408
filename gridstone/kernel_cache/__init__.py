"""Text to callable, kept: settings, keys, the store of artefacts, toolchains, launchers, tuning records."""
