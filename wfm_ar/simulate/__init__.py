"""The world model used as a simulator: planning in it (planner.py) towards a goal (goal.py), and as a gymnasium environment."""
