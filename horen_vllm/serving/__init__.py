"""The API-server half: codebook names on the OpenAI API, decisions in the responses, the sync agent."""
