"""What outlives a crash: files that are whole, directories with one owner, processes that end."""
