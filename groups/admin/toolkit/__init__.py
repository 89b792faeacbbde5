"""What the admin pages of all apps are made of. In groups, since all apps know it and it decides who may do what."""
