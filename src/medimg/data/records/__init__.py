"""TFRecord files: records with checksums, each a `tf.train.Example`; read and written without TensorFlow."""
