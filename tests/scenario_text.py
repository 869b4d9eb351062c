"""A scenario small enough to simulate in every test."""

SCENARIO = """
description = "ten aircraft for ten minutes"
epoch = 2025-06-01T06:00:00Z
duration_s = 600.0
turbulence_m2ps3 = 0.05

[[radar]]
name = "SMALL"
latitude_deg = 41.3
longitude_deg = 2.1
height_m = 80.0
rotation_period_s = 4.0
outliers = { fraction = 0.02, scale = 8.0 }

[[traffic]]
name = "some"
number = 10
radius_nm = 40.0
speed_kt = [200.0, 400.0]
flight_level = [60.0, 200.0]
manoeuvres_per_hour = 40.0
"""
