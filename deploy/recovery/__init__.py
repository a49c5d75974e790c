"""What int8 lost, won back before a layer goes to float."""
