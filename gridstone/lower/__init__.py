"""How it is computed: targets, schedules, and the passes that turn a spec and a schedule into a plan."""
