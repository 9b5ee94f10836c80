"""The formats in which a trained model is exported: native adapter, peft, merged."""
