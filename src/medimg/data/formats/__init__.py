"""What is inside picture files, a module or package for each way of reading them; `medimg.data.decode` chooses."""
