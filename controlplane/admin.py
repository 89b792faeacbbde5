"""What stays out of the admin: rows that nobody edits, and the task queue's.

Allauth's are written by the pages of controlplane/accounts.py. A row of Django-Q names a function to call: whoever may
write one may do everything.
"""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

OTHERS: list[Any] = [EmailAddress, Authenticator, SocialAccount, SocialApp, SocialToken]
OTHERS += [Failure, OrmQ, Schedule, Success]
admin.site.unregister([model for model in OTHERS if admin.site.is_registered(model)])
