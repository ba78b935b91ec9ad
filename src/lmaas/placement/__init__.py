"""Where workers and jobs run: processes of this machine."""
