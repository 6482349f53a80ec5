"""The evidence: one script a table; does DiLo do here what the paper says?"""
