"""Write what is known of a run as one HTML page."""
