"""A policy outside of training: exported, shown in its environment, served to a robot's control loop."""
