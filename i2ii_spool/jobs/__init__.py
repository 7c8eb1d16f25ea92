"""What a job is. Read ids, request, records, folder; text is how strange names are shown."""
