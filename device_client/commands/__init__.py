"""What each command does once its settings are read: the parts are created and joined here."""
