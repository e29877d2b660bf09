"""From a trained model to a published version: judge, export, verify, publish."""
