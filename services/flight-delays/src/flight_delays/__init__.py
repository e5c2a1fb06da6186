"""The flight-delays product: will this flight arrive 15 or more minutes late?"""
