"""What is measured while the Trainer works: each monitor is fed by the plugin and gives an event's fields."""
