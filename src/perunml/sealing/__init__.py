"""How assets are kept: format, writer, reader, views, stores."""
