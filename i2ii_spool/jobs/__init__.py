"""What a job is: its id, the request in it, the records and the names of the files in its folder."""
