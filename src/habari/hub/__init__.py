"""What Habari adds to the JupyterHub process."""
