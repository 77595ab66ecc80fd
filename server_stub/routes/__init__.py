"""The routes of the protocol, a module for each subject."""
