"""Where Q and DQ stand, found by timing on the device."""
