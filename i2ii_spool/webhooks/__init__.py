"""The deliverer: a daemon that tells the webhooks of jobs what has happened to them."""
