"""How the nets learn: batches, losses, the gradient step, schedules."""
