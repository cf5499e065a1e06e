"""V-pretraining in other libraries' training loops."""

from vfunc.extras import needs

needs("language")
