"""Posts to a webhook what a person should look at: once when it begins, once when it ends.

    conditions.py  what is wrong now, each with a key that stays the same while it lasts
    watch.py       compares with what was wrong before, also before a restart
    forms.py       the bodies: our own JSON, Slack's, Alertmanager's
    delivery.py    the queue, and the posts

Nothing waits for it. The log says when a webhook does not answer.
"""
