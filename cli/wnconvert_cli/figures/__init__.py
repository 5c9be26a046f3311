"""Results as pictures. What draws them is imported when somebody asks for one."""
