"""Images, in two lines of work that share little: an input image may be refused, a paid result may not.

Input images:

    inputs        the entry: take the images of a task, from files, base64 or URLs, and store them
    fetch         download an image from a URL that an application names
    base64        decode base64 and `data:` URLs
    check         decode an image completely, within limits of threads and memory
    structure     find size, pixel data and EXIF in a file, without decoding it
    pixels        decode the pixels, and turn an image upright
    formats       name the format of a file that is refused, such as HEIC

Results:

    download      the entry: download a result, and decode it to verify it
    result_threads  the few threads that decode results
    examine       find out what a result is and what is wrong with it, also if it is damaged
    signed_links  links to stored results that need no API key

Both:

    inspect       read an image's header with Pillow, decode it strictly; media types and their extensions
"""
