"""The fields of the settings, by what they are about; settings.py puts them together."""
