"""The directory ``containers/`` and everything below it."""
