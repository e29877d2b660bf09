"""From event logs to a published model repository. torch lives only in `learning`."""
